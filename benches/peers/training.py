"""Training steps: nestgen against PyTorch. See `run`."""

import compare
import sampling

ROWS = [
    compare.Row("generator", "transposed NesT, forward + backward, 64 px", 16, blocks=True),
    compare.Row("discriminator", "residual discriminator, forward + backward, 64 px", 16, convolutions=True),
    compare.Row("adversarial", "adversarial step (D + G + Adam + EMA), 64 px", 16, convolutions=True, blocks=True),
]

if __name__ == "__main__":
    compare.main(__doc__, ROWS, sampling.measure)
