"""Loki by the authors' functions (SprocketLab/loki) in f64, distances by networkx. Seed 145.

Expected are the scores of all labels, the locus of the observed ones by the authors' union of paths, and the distance to the locus of the
node that their active rule takes next.
"""

import contextlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import networkx as nx
import numpy as np
import torch
from authors import take
from golden import header, tensor, write

COMMIT = "7b010d8e91061a9b6f0febc785b515487387bcaa"
REPOSITORY = "SprocketLab/loki"
given = {"np": np, "nx": nx}
loki = take(REPOSITORY, COMMIT, "simclr_exps/loki.py", ["loki_exact_predict"])
locus = take(REPOSITORY, COMMIT, "active_learning/libs/TreeWithLocus.py", ["TreeWithLocus"], **given)
active = take(REPOSITORY, COMMIT, "active_learning/libs/ActiveSelection.py", ["ActiveSelection"], **given)
rng = np.random.default_rng(145)


def case(name, nodes, count, weighted):
    edges = [(int(rng.integers(node)), node, float(rng.integers(1, 4)) if weighted else 1.0) for node in range(1, nodes)]
    graph = nx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_weighted_edges_from(edges)
    observed = [int(node) for node in rng.choice(nodes, count, replace=False)]
    paths = dict(nx.all_pairs_dijkstra_path_length(graph))
    distances = np.array([[paths[a][b] for b in range(nodes)] for a in observed], dtype=np.float64)
    p = rng.dirichlet(np.full(count, 0.6), 5)
    tree = object.__new__(locus.TreeWithLocus)
    tree.tree = graph
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        tree.set_lambda(sorted(observed))
        tree.update_locus()
    inside = sorted(int(node) for node in tree.locus.nodes)
    node = active.ActiveSelection().select(tree)
    away = min(paths[node][inner] for inner in inside)
    return {
        "name": name,
        "config": {},
        "inputs": {"nodes": nodes, "edges": edges, "observed": observed, "probabilities": tensor(p)},
        "expected": {
            "scores": tensor(loki.loki_exact_predict(torch.tensor(p), torch.tensor(distances))),
            "locus": inside,
            "away": float(away),
        },
    }


cases = [case("small", 8, 3, False), case("many", 20, 4, False), case("lengths", 25, 5, True)]
source = "SprocketLab/loki (simclr_exps/loki.py, active_learning/libs)"
write("shift/loki", header(__file__, source, 145, {"f64": 1e-11}, commit=COMMIT), cases)
