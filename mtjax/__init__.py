"""mtjax: a JAX research framework for multitask models."""
from mtjax import experiment
from mtjax.context import Ctx, Features
from mtjax.objective import Losses, Objective
from mtjax.run import Run
from mtjax.tasks import Task

__all__ = ['Ctx', 'Features', 'Losses', 'Objective', 'Run', 'Task', 'experiment']
