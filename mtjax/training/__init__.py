"""Training: the state, the step, the loop, stages, checkpoints, evaluation and metric writers."""
# One update.
from mtjax.training.optimizer import make_optimizer, make_schedule
from mtjax.training.state import TrainState, Window, eval_params, init_state, make_train_step

# Many.
from mtjax.training.loop import NonFiniteLoss, Settings, Stage, train

# What is kept of them.
from mtjax.training.checkpoints import Checkpoints, Damaged
from mtjax.training.evaluation import Evaluator
from mtjax.training.writers import MetricWriter, progress, read_metrics
