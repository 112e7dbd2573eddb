"""A model that answers by a test-time method, behind OpenAI's protocol and in the terminal."""
