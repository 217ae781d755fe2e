"""The simulation of the choice policies, as a table for the docs: python -m bench.router_simulation [seed]"""

from __future__ import annotations

import sys

from tests.routing.simulation import markdown, table

if __name__ == "__main__":
    print(markdown(table(seed=int(sys.argv[1]) if len(sys.argv) > 1 else 1)))
