"""A dense layer as a site, without an encoder around it."""
import jax.numpy as jnp

from mtjax.adapters import Site


def dense(kernel, bias=None, kind='output', path='layer'):
  """The site of y = x W (+ b)."""
  kernel = jnp.asarray(kernel, jnp.float32)
  params = {'kernel': kernel} if bias is None else {'kernel': kernel, 'bias': jnp.asarray(bias, jnp.float32)}

  def run(params, x):
    return x @ params['kernel'] + params.get('bias', jnp.zeros(1))[None]

  return Site(path, kind, params, kernel.shape[:1], kernel.shape[1:], run)


def adapted(method, p, site, x):
  """What the layer and the method give for x [L, D]."""
  x = jnp.asarray(x, jnp.float32)
  p = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in p.items()}
  return method.apply(method.prepare(p, site), x, site.run(site.params, x), site)


def folded(method, p, site, x):
  """What the layer gives with the adapter merged into it."""
  p = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in p.items()}
  return site.run(method.fold(p, site.params, site.kind), jnp.asarray(x, jnp.float32))
