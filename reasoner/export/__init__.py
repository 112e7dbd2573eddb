"""A trained model as other programs take it: a plain folder, a classifier of transformers, a GGUF file."""
