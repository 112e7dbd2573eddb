"""What draws tokens: the protocol, the engine in this process, and the same protocol on vLLM and SGLang servers."""
