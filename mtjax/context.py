"""What travels beside a model's inputs (`Ctx`) and what every encoder returns (`Features`).

Shapes: B rows, L tokens, D width, T tasks, H x W positions of a feature map.
"""
from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class Ctx:
  """What a batch carries besides its inputs. Encoders hand it down unread; experts and adapters read it.

  Attributes:
    task_id: [B] int32, each row's index into the run's tasks; or None where every row serves all tasks.
    mix: [B, T] float, mixing weights over tasks in place of one id; or a dict of such weights by the names of the
      adapters' rules that they are for ([B, K], [B, Q, K] over the sets of their banks).
    mask: [B] bool, rows that are data rather than padding; or [B, L], the tokens that are (encoders of published
      checkpoints read it so).
    segment_ids: [B, L] int32 of packed rows, 0 = padding.
  """

  task_id: jax.Array | None = None
  mix: jax.Array | dict[str, jax.Array] | None = None
  mask: jax.Array | None = None
  segment_ids: jax.Array | None = None


@flax.struct.dataclass
class Features:
  """What an encoder makes of a batch; a field that it does not fill is None.

  Attributes:
    tokens: [B, L, D], one vector a token.
    pooled: [B, D], one vector a row.
    maps: list of [B, H, W, D], feature maps from fine to coarse.
    mask: [B, L] bool, the tokens that are not padding.
    aux: whatever else the encoder reports (`logits`, router statistics).
  """

  tokens: jax.Array | None = None
  pooled: jax.Array | None = None
  maps: list[jax.Array] | None = None
  mask: jax.Array | None = None
  aux: dict[str, Any] = flax.struct.field(default_factory=dict)

  def need(self, *fields: str, by: str) -> 'Features':
    """Checks that the encoder filled `fields`, on behalf of the head `by`. Raises ValueError naming what is missing."""
    missing = [field for field in fields if getattr(self, field) is None]
    if missing:
      filled = [f for f in ('tokens', 'pooled', 'maps') if getattr(self, f) is not None]
      raise ValueError(
        f'{by} reads features.{", features.".join(missing)}, which this encoder does not fill. '
        f'It fills: {", ".join(filled) or "nothing"}.'
      )
    return self
