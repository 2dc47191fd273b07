"""Configs to launch: `python -m mtjax.train --config=experiments/<suite>/<name>.py --workdir=DIR`."""
