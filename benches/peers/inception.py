"""The network of FID: nestgen against PyTorch, which folds batch norms too where it is at its best. See `run`."""

import compare

ROWS = [compare.Row("inception", "Inception-v3 forward, 299 px", 8, convolutions=True)]

if __name__ == "__main__":
    compare.main(__doc__, ROWS)
