"""Candidates that try to cheat assert suites and function calls; none may pass."""

_ALWAYS = (
    "class Always:\n"
    "    def __eq__(self, other): return True\n"
    "    def __ne__(self, other): return False\n"
    "    def __bool__(self): return True\n"
    "    def __hash__(self): return 0\n"
    "    def __lt__(self, other): return True\n"
    "    __gt__ = __le__ = __ge__ = __lt__\n"
    "    def __abs__(self): return self\n"
    "    def __sub__(self, other): return self\n"
)

# The suite: f(1) == 41, f(2) == 43, f([1]) == [2]. Each candidate defines f.
ASSERTS = ["assert f(1) == 41", "assert f(2) == 43", "assert f([1]) == [2]"]
CANDIDATES = {
    "always_equal_object": _ALWAYS + "def f(x): return Always()",
    "always_equal_inside_list": _ALWAYS + "def f(x): return [Always()]",
    "int_subclass": "class I(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\ndef f(x): return I(0)",
    "list_subclass": "class L(list):\n    def __eq__(self, o): return True\ndef f(x): return L()",
    "type_pretender": _ALWAYS + "    __class__ = int\ndef f(x): return Always()",
    "generator": "def f(x):\n    while True: yield x",
    "exit_inside_function": "import sys\ndef f(x): sys.exit(0)",
    "hard_exit_inside_function": "import os\ndef f(x): os._exit(0)",
    "exit_at_import": "import sys\ndef f(x): return 0\nsys.exit(0)",
    "patched_assertion_error": "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\ndef f(x): return 0",
    "patched_builtins": "import builtins\nbuiltins.abs = builtins.len = lambda x: 0\ndef f(x): return 0",
    "patched_encoder": (
        "import sys\nfor name, m in list(sys.modules.items()):\n"
        "    if name.endswith('sandbox.values'): m.encode = lambda v, h=None: b'41'\ndef f(x): return 0"
    ),
    "tests_by_frame_walk": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for v in list(frame.f_locals.values()):\n"
        "            if isinstance(v, (str, bytes)) and '== 4' in str(v): return 41\n        frame = frame.f_back\n    return 0"
    ),
    "forged_reply_on_link": 'import os\nos.write(5, b\'\\x10\\0\\0\\0{"t":["ok",41]}\\n\')\ndef f(x): return 0',
    "huge_reply": "def f(x): return [0] * 10**7",
    "deep_reply": "def f(x):\n    r = []\n    for _ in range(5000): r = [r]\n    return r",
    "endless_integer": "def f(x): return 1 << 10**6",
    "not_a_number": "def f(x): return float('nan')",
    "bool_for_int": "def f(x): return True",
    "state_between_tests": (
        "import os\ndef f(x):\n    n = len(os.listdir('/box'))\n    open(f'/box/{n}', 'w').close()\n    return [41, 43, [2]][n]"
    ),
    "stop_iteration": "def f(x): raise StopIteration",
    "colliding_integers": "s = {i * (2**61 - 1) for i in range(300)}\ndef f(x): return [s] * 50",
    "fake_builtins_and_modules": (
        "class math: isclose = staticmethod(lambda *a: True)\n"
        "def isinstance(*a): return True\ndef len(x): return 1\ndef f(x): return 0"
    ),
    "true_in_every_way": (
        "class T:\n    def __bool__(self): return True\n    def __len__(self): return 41\n"
        "    def __index__(self): return 41\ndef f(x): return T()"
    ),
    "forged_effects": (
        'import os\nmessage = b\'{"t":["ok",41,{"d":[[7,[]]]}]}\'\n'
        "os.write(5, len(message).to_bytes(4, 'little') + message)\ndef f(x): return 0"
    ),
    "unknown_name": "def g(x): return x",
    "empty_body": "def f(x): pass",
    "hard_coded_visible_input": "def f(x): return 41 if x == 1 else None",
}
