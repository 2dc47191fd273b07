"""QM9: twelve properties of small molecules (fetched)."""
import csv
import re

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base

MAX_ATOMS = 29
ATOMIC_NUMBERS = {'H': 1, 'C': 6, 'N': 7, 'O': 8, 'F': 9}
TARGETS = {
  'mu': 'Dipole_debye', 'alpha': 'Polarizability_bohr3', 'homo': 'HOMO_au', 'lumo': 'LUMO_au',
  'gap': 'HOMO_LUMO_gap_au', 'r2': 'R2_bohr2', 'zpve': 'ZPVE_au', 'u0': 'InternalEnergy_0K_au',
  'u298': 'InternalEnergy_298K_au', 'h298': 'Enthalphy_298K_au',
  'g298': 'GibbsFreeEnergy_298K_au', 'cv': 'Heatcapacity_Cv_cal_mol_K'}


class Qm9(base.Source):
  """130,831 molecules of up to nine heavy atoms, computed by B3LYP/6-31G(2df,p).

  `smiles`, text; `atomic_numbers` int32 [29], 0 = no atom; `positions` float32 [29, 3] in angstrom; `num_atoms`.
  Targets, each a float32 column in the unit it was published in: mu (debye), alpha (bohr^3), homo, lumo, gap
  (hartree), r2 (bohr^2), zpve, u0, u298, h298, g298 (hartree), cv (cal/mol/K). Nothing is standardised.
  Float32 holds energies of some -400 hartree to 3e-5 hartree (0.8 meV).
  Splits: 84 / 8 / 8 % by SMILES, so that two molecules written alike share a split.
  """
  name = 'mt_qm9'
  INPUTS = 'tokens'
  FORMAT = {'tokens': dict(name='bytes', column='smiles', length=40)}
  CITATION = ('Ramakrishnan, Dral, Rupp & von Lilienfeld, "Quantum chemistry structures and properties of 134 kilo '
              'molecules", Scientific Data 2014.')
  LICENCE = 'CC0 (data); MIT (qm9pack 1.0.3)'

  def columns(self):
    return {'id': np.int32, 'smiles': tfds.features.Text(), 'num_atoms': np.int32,
            'atomic_numbers': tfds.features.Tensor(shape=(MAX_ATOMS,), dtype=np.int32),
            'positions': tfds.features.Tensor(shape=(MAX_ATOMS, 3), dtype=np.float32),
            **{name: np.float32 for name in TARGETS}}

  def rows(self):
    folder = fetch.require('qm9') / 'qm9pack' / 'data'
    ids, smiles, elements, positions, targets = [], [], [], [], []
    for part in (1, 2, 3):
      with (folder / f'qm9_part{part}.csv').open(newline='') as file:
        for row in csv.DictReader(file):
          ids.append(int(row['Index']))
          smiles.append(row['SMILES'])
          elements.append([ATOMIC_NUMBERS[symbol] for symbol in re.findall('[A-Z]', row['Elements'])])
          numbers = row['XYZ_Ang'].replace('[', '').replace(']', '').split(',')
          positions.append(np.array(numbers, np.float32).reshape(-1, 3))
          targets.append([float(row[column]) for column in TARGETS.values()])
    atoms = np.zeros((len(ids), MAX_ATOMS), np.int32)
    places = np.zeros((len(ids), MAX_ATOMS, 3), np.float32)
    for row, (numbers, xyz) in enumerate(zip(elements, positions, strict=True)):
      atoms[row, :len(numbers)], places[row, :len(numbers)] = numbers, xyz
    table = {'id': np.array(ids, np.int32), 'smiles': smiles,
             'num_atoms': np.array([len(numbers) for numbers in elements], np.int32),
             'atomic_numbers': atoms, 'positions': places,
             **dict(zip(TARGETS, np.array(targets, np.float32).T))}
    return table, base.frozen_splits(smiles, {'train': 0.84, 'validation': 0.08, 'test': 0.08})
