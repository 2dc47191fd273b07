"""FairGrad: alpha-fair resource allocation of the update among tasks.

Ban & Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, https://arxiv.org/abs/2402.15638.

    G w = w^(-1/alpha) (elementwise), w > 0;    d = J^T w, so that d . g_t = w_t^(-1/alpha)

G = J J^T: [T, T], w: [T], w(s G) = s^(-alpha / (alpha + 1)) w(G). alpha = 0 is the mean, 1 Nash-MTL without its clip,
2 minimises the potential delay, large alpha comes to max-min fairness.
Differs from the authors' code: Newton's method on the convex potential (see `solvers.newton`) instead of least squares.
At alpha = 0 the weights are 1/T; the equation's own limit has the same direction and weights 1. A row of zeros gets
weight 1.
"""
from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.solvers import fair_weights
from mtjax.optim.stacked import equal_shares


def fairgrad(alpha: float = 1.0, regularisation: float = 1e-6, num_iters: int = 30,
             scale_heads: bool = True) -> base.Aggregator:
  """FairGrad as an optax transform of stacked gradients.

  Args:
    alpha: of the fairness, >= 0.
    regularisation: the smallest eigenvalue that the matrix of cosines is given.
    num_iters: most Newton steps.
    scale_heads: whether w multiplies the gradients of task-owned parameters too, as in the authors' code.

  Example:
    >>> tx = optax.chain(mtjax.optim.fairgrad(alpha=2.0), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(*(f'{x:.2f}' for x in updates['w']))
    -0.03 -0.79 -0.79
  """
  check_number(alpha, 'fairgrad', 'alpha', 0)
  check_number(regularisation, 'fairgrad', 'regularisation', 0)
  if num_iters < 1:
    raise ValueError(f'fairgrad: num_iters must be >= 1, got {num_iters!r}.')

  def weights(state, info):
    if alpha == 0:
      return equal_shares(info.mask, info.gramian.dtype), state
    w = fair_weights(info.gramian, alpha, info.mask, num_iters=num_iters, regularisation=regularisation)
    return w, state

  return base.from_weights(weights, name='fairgrad', needs='gramian', scale_heads=scale_heads)
