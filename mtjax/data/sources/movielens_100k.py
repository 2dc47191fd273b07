"""MovieLens-100K (fetched)."""
import csv
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base

NUM_USERS, NUM_ITEMS = 943, 1682
GENRES = ('Action', 'Adventure', 'Animation', "Children's", 'Comedy', 'Crime', 'Documentary', 'Drama', 'Fantasy',
          'Film-Noir', 'Horror', 'Musical', 'Mystery', 'Romance', 'Sci-Fi', 'Thriller', 'War', 'Western', 'unknown')
OCCUPATIONS = ('administrator', 'artist', 'doctor', 'educator', 'engineer', 'entertainment', 'executive', 'healthcare',
               'homemaker', 'lawyer', 'librarian', 'marketing', 'none', 'other', 'programmer', 'retired', 'salesman',
               'scientist', 'student', 'technician', 'writer')


def read_table(path: pathlib.Path) -> list[dict[str, str]]:
  """The rows of a tab-separated file whose header is 'name:type'."""
  with path.open(newline='', encoding='utf-8') as file:
    header, *rows = csv.reader(file, delimiter='\t', quoting=csv.QUOTE_NONE)
  return [dict(zip((name.split(':')[0] for name in header), row)) for row in rows]


class Movielens100k(base.Source):
  """100,000 ratings: who (`user`, `age`, `gender`, `occupation`), what (`item`, `title`, `year`, `genres`), and how.

  user 0 … 942, item 0 … 1681; genres int32 [19] of 0 and 1; year 0 where it is not known; timestamp in seconds.
  Tasks: `rating` 1 … 5 (float32), `liked` (a rating of 4 or 5); also gender and occupation of the user, genres.
  Splits in time, user by user: a user's latest 10 % of ratings are test, the 10 % before them validation (at least
  one each), so every user is in every split and none is judged by his own past.
  """
  name = 'mt_movielens_100k'
  INPUTS = ('user', 'item')
  CITATION = 'Harper & Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 2015.'
  LICENCE = 'MovieLens: research use, no redistribution; MIT (recbole 1.2.1)'

  def columns(self):
    return {'user': np.int32, 'item': np.int32, 'age': np.float32,
            'gender': tfds.features.ClassLabel(names=('F', 'M')),
            'occupation': tfds.features.ClassLabel(names=OCCUPATIONS),
            'genres': tfds.features.Tensor(shape=(len(GENRES),), dtype=np.int32), 'year': np.int32,
            'title': tfds.features.Text(), 'rating': np.float32,
            'liked': tfds.features.ClassLabel(names=('no', 'yes')), 'timestamp': np.int64}

  def rows(self):
    folder = fetch.require('movielens_100k')
    users = {int(row['user_id']): row for row in read_table(folder / 'ml-100k.user')}
    items = {int(row['item_id']): row for row in read_table(folder / 'ml-100k.item')}
    ratings = sorted((int(row['user_id']), int(row['timestamp']), int(row['item_id']), int(float(row['rating'])))
                     for row in read_table(folder / 'ml-100k.inter'))
    user, time, item, rating = (np.array(column) for column in zip(*ratings))
    genres = {key: [int(genre in row['class'].split()) for genre in GENRES] for key, row in items.items()}
    years = {key: int(row['release_year']) if row['release_year'].isdigit() else 0 for key, row in items.items()}
    table = {
      'user': (user - 1).astype(np.int32), 'item': (item - 1).astype(np.int32),
      'age': np.array([float(users[u]['age']) for u in user.tolist()], np.float32),
      'gender': [users[u]['gender'] for u in user.tolist()],
      'occupation': [users[u]['occupation'] for u in user.tolist()],
      'genres': np.array([genres[i] for i in item.tolist()], np.int32),
      'year': np.array([years[i] for i in item.tolist()], np.int32),
      'title': [items[i]['movie_title'] for i in item.tolist()],
      'rating': rating.astype(np.float32), 'liked': (rating >= 4).astype(int).tolist(),
      'timestamp': time.astype(np.int64)}
    return table, split_by_time(user)


def split_by_time(users: np.ndarray) -> base.Splits:
  """Splits of rows sorted by (user, time): each user's last tenth is test, the tenth before it validation."""
  which = np.zeros(len(users), int)
  starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
  for start, end in zip(starts, np.r_[starts[1:], len(users)]):
    tenth = max(1, (end - start) // 10)
    which[end - 2 * tenth:end - tenth] = 1
    which[end - tenth:end] = 2
  order = base.hash_order(range(len(users)))
  return {split: order[which[order] == i] for i, split in enumerate(('train', 'validation', 'test'))}
