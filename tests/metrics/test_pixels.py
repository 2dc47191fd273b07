"""mIoU, depth, normals and edges: against scikit-learn, scipy and slow loops; worked numbers; batches and hosts."""
import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
import sklearn.metrics as sk
from agree import assert_batches_and_hosts_agree, assert_masked_rows_do_not_count, number, of, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from mtjax import metrics
from mtjax.metrics import base, edges, segmentation
from mtjax.metrics.normals import angles

B, H, W, C = 12, 4, 5, 3
ONES = np.ones(B, bool)
SEGMENTATION = [metrics.miou(C), metrics.miou(C, absent='count'), metrics.pixel_accuracy(), metrics.boundary_f(0.3)]
DEPTH = [metrics.depth_abs(), metrics.depth_rel(), metrics.depth_rmse(), *map(metrics.depth_delta, (1, 2, 3))]
NORMALS = [metrics.mean_angle(), metrics.median_angle(), *map(metrics.angle_within, (11.25, 22.5, 30))]
names = lambda group: [metric.specs[0].name for metric in group]


def segmentation_rows(seed, classes=C):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(B, H, W, C)).astype(np.float32)
  logits[..., classes:] -= 99                                       # neither in the truth nor predicted
  return logits, {'label': rng.integers(-1, classes, (B, H, W)).astype(np.int32), 'mask': rng.random(B) < 0.7}


def depth_rows(seed):
  rng = np.random.default_rng(seed)
  depth = rng.choice([0.0, np.nan, 1.0], (B, H, W), p=[0.1, 0.1, 0.8]) * rng.uniform(0.5, 9, (B, H, W))
  said = np.nan_to_num(depth) * rng.uniform(0.4, 2, (B, H, W)) - 0.05
  return said.astype(np.float32), {'label': depth.astype(np.float32), 'mask': rng.random((B, H, W)) < 0.8}


def normal_rows(seed):
  rng = np.random.default_rng(seed)
  normal = rng.normal(size=(B, H, W, 3)) * (rng.random((B, H, W, 1)) < 0.8)
  said = normal + 0.4 * rng.normal(size=normal.shape)
  return said.astype(np.float32), {'label': normal.astype(np.float32), 'mask': rng.random(B) < 0.7}


def edge_rows(seed):
  rng = np.random.default_rng(seed)
  label = (rng.random((B, 8, 8)) < 0.3).astype(np.int32) - (rng.random((B, 8, 8)) < 0.1)
  return (2 * label + rng.normal(size=label.shape)).astype(np.float32), {'label': label, 'mask': rng.random(B) < 0.7}


@pytest.mark.parametrize('metric', SEGMENTATION, ids=names(SEGMENTATION))
@seeds
def test_segmentation_in_batches(metric, seed):
  for classes in (C, 1):                            # the second: one class only
    assert_batches_and_hosts_agree(metric, *segmentation_rows(seed, classes))
  assert_masked_rows_do_not_count(metric, *segmentation_rows(seed))


@pytest.mark.parametrize('metric', DEPTH, ids=names(DEPTH))
@seeds
def test_depth_in_batches(metric, seed):
  assert_batches_and_hosts_agree(metric, *depth_rows(seed))
  assert_masked_rows_do_not_count(metric, *depth_rows(seed))


@pytest.mark.parametrize('metric', NORMALS, ids=names(NORMALS))
@seeds
def test_normals_in_batches(metric, seed):
  assert_batches_and_hosts_agree(metric, *normal_rows(seed))
  assert_masked_rows_do_not_count(metric, *normal_rows(seed))


@seeds
def test_ods_in_batches(seed):
  metric = of(metrics.ods_f, 5, 0.15)
  assert_batches_and_hosts_agree(metric, *edge_rows(seed))
  assert_masked_rows_do_not_count(metric, *edge_rows(seed))


@given(seed=st.integers(0, 10**6), classes=st.integers(1, C))
@settings(max_examples=15, deadline=None)
def test_segmentation_against_scikit_learn(seed, classes):
  logits, batch = segmentation_rows(seed, classes)
  batch['mask'][0], batch['label'][0, 0, 0] = True, 0
  keep = batch['mask'][:, None, None] & (batch['label'] >= 0)
  said, label = logits.argmax(-1)[keep], batch['label'][keep]
  score = lambda **kwargs: sk.jaccard_score(label, said, average='macro', zero_division=0, **kwargs)
  # Without `labels` scikit-learn knows the classes of truth and predictions only; with them, absent ones are 0.
  expected = [score(), score(labels=range(C)), sk.accuracy_score(label, said)]
  assert [number(metric, logits, batch) for metric in SEGMENTATION[:3]] == pytest.approx(expected, abs=1e-12)


def test_two_classes_from_one_logit():
  label = np.array([[[1, 0, 0]]])
  batch = {'label': label, 'mask': np.ones(1, bool)}
  assert number(metrics.miou(2, 'sigmoid'), np.float32([[[3, 3, -3]]]), batch) == 0.5      # 1/2 and 1/2
  with pytest.raises(ValueError, match='classes=3 for a head of kind .sigmoid.; allowed is 2'):
    metrics.miou(3, 'sigmoid')
  with pytest.raises(ValueError, match="absent='zero'; allowed are 'drop', 'count'"):
    metrics.miou(3, absent='zero')
  with pytest.raises(ValueError, match='classes=1; allowed is an integer >= 2'):
    metrics.miou(1)


def test_identical_maps_are_perfect():
  label = np.random.default_rng(0).integers(0, C, (B, H, W))
  batch, logits = {'label': label, 'mask': ONES}, 5 * np.eye(C, dtype=np.float32)[label]
  assert [number(metric, logits, batch) for metric in SEGMENTATION] == [1] * 4
  depth = np.random.default_rng(0).uniform(1, 9, (B, H, W)).astype(np.float32)
  assert [number(metric, depth, {'label': depth, 'mask': ONES}) for metric in DEPTH] == [0, 0, 0, 1, 1, 1]
  normal = np.random.default_rng(0).normal(size=(B, H, W, 3)).astype(np.float32)
  assert [number(metric, normal, {'label': normal, 'mask': ONES}) for metric in NORMALS] == [0, 0, 1, 1, 1]
  # Opposite normals: 180 degrees, to float32's last bits.
  opposite = [number(metric, -normal, {'label': normal, 'mask': ONES}) for metric in NORMALS]
  assert opposite == pytest.approx([180, 180, 0, 0, 0], abs=1e-4)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_depth_against_numpy(seed):
  said, batch = depth_rows(seed)
  with np.errstate(invalid='ignore'):
    keep = batch['mask'] & (batch['label'] > 0)
  f, d = said[keep].astype(np.float64), batch['label'][keep].astype(np.float64)
  ratio = np.where(f > 0, np.maximum(f / d, d / f), np.inf)
  expected = [np.abs(f - d).mean(), (np.abs(f - d) / d).mean(), np.sqrt(((f - d) ** 2).mean()),
              *((ratio < 1.25 ** k).mean() for k in (1, 2, 3))]
  np.testing.assert_allclose([number(metric, said, batch) for metric in DEPTH], expected, rtol=1e-5)   # float32


def test_depths_that_cannot_be_are_outside_every_threshold():
  batch = {'label': np.float32([[1, 1, 1]]), 'mask': np.ones(1, bool)}
  for k in (1, 2, 3):
    assert number(metrics.depth_delta(k), np.float32([[-0.9, 0, 1]]), batch) == pytest.approx(1 / 3)
  with pytest.raises(ValueError, match='k=0; allowed is an integer >= 1'):
    metrics.depth_delta(0)


def test_the_root_is_taken_over_the_split_not_image_by_image():
  # Errors 0 and 4 in two images of a pixel: sqrt(16 / 2), where the mean of roots were 2.
  batch = {'label': np.float32([[[1]], [[1]]]), 'mask': np.ones(2, bool)}
  assert number(metrics.depth_rmse(), np.float32([[[1]], [[5]]]), batch) == pytest.approx(8 ** 0.5, rel=1e-7)


def test_many_pixels_lose_no_accuracy():
  # One error of 2e6 among 3e5 of .3 on the whole: added one after the other in float32, these are rounded to eighths.
  depth = np.full((3, 320, 320), 0.5, np.float32)
  said = depth + np.random.default_rng(0).uniform(0, 0.6, depth.shape).astype(np.float32)
  said[0, 0, 0] = 2e6
  gap = (said - depth).astype(np.float64)
  assert np.cumsum(gap.ravel(), dtype=np.float32)[-1] / gap.size != pytest.approx(gap.mean(), rel=1e-5)
  batch, metric = {'label': depth, 'mask': np.ones(3, bool)}, metrics.depth_abs()
  # Within a row and between batches what rounding cuts off is kept; the rows of a batch are added in float32.
  assert number(metric, said, batch, [1, 1, 1]) == pytest.approx(gap.mean(), rel=1e-10)
  assert number(metric, said, batch, [3]) == pytest.approx(gap.mean(), rel=1e-7)


def test_counts_pass_two_to_the_31():
  part = base.count(np.array([2**31 - 1, 5], np.int32))
  total = base.count(np.zeros(2, np.int32))
  for _ in range(5):
    total = base.add_counts(total, part)
  assert base.read_count(total).tolist() == [5 * (2**31 - 1), 25]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_normals_against_the_arc_cosine(seed):
  said, batch = normal_rows(seed)
  batch['mask'][0] = True
  keep = batch['mask'][:, None, None] & (np.linalg.norm(batch['label'], axis=-1) > 0)
  f, n = said[keep].astype(np.float64), batch['label'][keep].astype(np.float64)
  cosine = (f * n).sum(-1) / np.linalg.norm(f, axis=-1) / np.linalg.norm(n, axis=-1)
  expected = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
  values = [expected.mean(), np.median(expected), *((expected < threshold).mean() for threshold in (11.25, 22.5, 30))]
  np.testing.assert_allclose([number(metric, said, batch) for metric in NORMALS], values, rtol=1e-5)   # float32


def test_legal_normals_whose_components_sum_to_zero_count():
  batch = {'label': np.float32([[[1, -1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1]]]), 'mask': np.ones(1, bool)}
  said = np.float32([[[1, -1, 0], [9, 9, 9], [0, 1, 0], [0, 0, 0]]])     # 0, none, 90, and 90 for a vector of no length
  assert number(metrics.mean_angle(), said, batch) == pytest.approx(60, rel=1e-6)
  assert number(metrics.median_angle(), said, batch) == pytest.approx(90, rel=1e-6)
  even = {'label': batch['label'][:, [0, 2]], 'mask': batch['mask']}      # the mean of the two middle ones
  assert number(metrics.median_angle(), said[:, [0, 2]], even) == pytest.approx(45, rel=1e-6)


def test_small_angles_are_exact():
  # The arc cosine of float32 knows only multiples of .02 degrees here.
  t = np.radians([1e-3, 0.01, 179.99])
  said = np.stack([np.sin(t), 0 * t, np.cos(t)], -1).astype(np.float32)
  np.testing.assert_allclose(angles(said, np.float32([[0, 0, 1]])), [1e-3, 0.01, 179.99], rtol=1e-4)


@given(seed=st.integers(0, 10**6), density=st.floats(0.1, 0.9))
@settings(max_examples=25, deadline=None)
def test_thinning_keeps_parts_and_is_done_once(seed, density):
  x = np.random.default_rng(seed).random((12, 11)) < density
  y = edges.thin(x)
  assert (y <= x).all() and np.array_equal(edges.thin(y), y)
  parts = lambda z: scipy.ndimage.label(z, np.ones((3, 3)))[1]
  assert parts(x) == parts(y)


def test_a_thick_line_becomes_thin():
  x = np.zeros((9, 9), bool)
  x[3:6, 1:8] = True
  assert np.flatnonzero(edges.thin(x).any(1)).tolist() == [4] and edges.thin(x).sum() >= 5


@given(seed=st.integers(0, 10**6), distance=st.sampled_from([0.5, 1.0, 1.5, 3.0]))
@settings(max_examples=25, deadline=None)
def test_matching_against_the_assignment_problem(seed, distance):
  a, b = np.random.default_rng(seed).random((2, 6, 6)) < 0.25
  pairs = 0
  if a.any() and b.any():
    near = np.linalg.norm(np.argwhere(a)[:, None] - np.argwhere(b)[None], axis=-1) <= distance
    rows, columns = scipy.optimize.linear_sum_assignment(near, maximize=True)
    pairs = near[rows, columns].sum()
  assert edges.match(a, b, distance) == pairs == edges.match(b, a, distance)


def test_ods_against_a_loop_over_thresholds():
  logits, batch = edge_rows(3)
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  distance, best = 0.15 * np.hypot(8, 8), 0
  for level in (1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6):
    matched = predicted = true = 0
    for image, label in zip(p[batch['mask']], batch['label'][batch['mask']]):
      lines, truth = edges.thin((image >= level) & (label >= 0)), edges.thin(label > 0)
      near = np.linalg.norm(np.argwhere(lines)[:, None] - np.argwhere(truth)[None], axis=-1) <= distance
      matched += near[scipy.optimize.linear_sum_assignment(near, maximize=True)].sum()
      predicted, true = predicted + lines.sum(), true + truth.sum()
    precision, recall = matched / predicted, matched / true
    best = max(best, 2 * precision * recall / (precision + recall))
  assert number(metrics.ods_f(5, 0.15), logits, batch) == pytest.approx(best, rel=1e-12)


def test_one_threshold_for_the_whole_split():
  # Each image alone has a perfect threshold, .2 and .6; the two together have not.
  label = np.zeros((2, 9, 9), int)
  label[:, 4, [2, 6]] = 1
  p = np.full((2, 9, 9), 0.01)
  p[0, 4, [2, 6]] = 0.3                    # the first: edges at .3, nothing else
  p[1, 4, [2, 6]] = 0.9                    # the second: edges at .9, three false ones at .5
  p[1, 0, [0, 4, 8]] = 0.5
  logits = np.log(p / (1 - p)).astype(np.float32)
  metric = metrics.ods_f(thresholds=9, tolerance=0.01)
  assert number(metric, logits[:1], {'label': label[:1], 'mask': ONES[:1]}) == 1
  assert number(metric, logits[1:], {'label': label[1:], 'mask': ONES[:1]}) == 1
  # At .2: 4 matched of 7 and 4: 8/11. At .6: 2 matched of 2 and 4: 4/6.
  assert number(metric, logits, {'label': label, 'mask': ONES[:2]}) == pytest.approx(8 / 11)


def test_edges_may_be_off_by_the_tolerance():
  # A diagonal of 200 * sqrt(2) times .0075 is 2.12 pixels.
  label = np.zeros((1, 200, 200), int)
  label[0, 100, 20:180] = 1
  shifted = lambda rows: 8.0 * np.roll(label, rows, axis=1).astype(np.float32) - 4
  scores = [number(metrics.ods_f(1), shifted(rows), {'label': label, 'mask': ONES[:1]}) for rows in (0, 2, 3)]
  assert scores == [1, 1, 0]


def test_boundary_f_against_a_loop():
  logits, batch = segmentation_rows(4)
  said, distance, values = logits.argmax(-1), 0.3 * np.hypot(H, W), []
  for s, t in zip(said[batch['mask']], batch['label'][batch['mask']]):
    def boundary(classes, c, known=t >= 0):
      steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
      inside = lambda y, x: 0 <= y < H and 0 <= x < W and known[y, x]
      return [(y, x) for y in range(H) for x in range(W) if known[y, x] and classes[y, x] == c and
              any(inside(y + i, x + j) and classes[y + i, x + j] != c for i, j in steps)]
    scores = []
    for c in range(C):
      a, b = boundary(s, c), boundary(t, c)
      if a or b:
        near = lambda one, other: np.mean([min([np.hypot(y - i, x - j) for i, j in other], default=9e9) <= distance
                                           for y, x in one]) if one else 0.0
        p, r = near(a, b), near(b, a)
        scores.append(2 * p * r / (p + r) if p + r else 0.0)
    values += [np.mean(scores)] if scores else []
  # An image's F is held in units of 2^-20.
  assert number(metrics.boundary_f(0.3), logits, batch) == pytest.approx(np.mean(values), abs=1e-6)


def test_confusion_is_that_of_scikit_learn():
  rng = np.random.default_rng(0)
  said, label = rng.integers(0, C, (2, 50))
  n = segmentation.confusion(said, label, np.ones(50, bool), C)
  np.testing.assert_array_equal(n, sk.confusion_matrix(label, said, labels=range(C)))
