"""Classifier training steps: nestgen against PyTorch. See `run`."""

import compare

ROWS = [
    compare.Row("nest_t", "NesT-T classifier step, 32 px", 64, convolutions=True, blocks=True),
    compare.Row("vit_t", "ViT-T classifier step, 32 px", 64),
]

if __name__ == "__main__":
    compare.main(__doc__, ROWS)
