"""Small problems in T variables, solved on the device inside jit: fixed shapes, float32 or float64."""
# Quadratic programs.
from mtjax.optim.solvers.dual_cone import project_weights
from mtjax.optim.solvers.lcp import regularised, solve_lcp, solve_semidefinite
from mtjax.optim.solvers.min_norm import frank_wolfe, min_norm
from mtjax.optim.solvers.simplex import project_simplex
# Equations.
from mtjax.optim.solvers.newton import fair_weights
from mtjax.optim.solvers.pinv import hermitian_cut, pinv_apply
# Scales.
from mtjax.optim.solvers.scaling import cosines, unit_trace
