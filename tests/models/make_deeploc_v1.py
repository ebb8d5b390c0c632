"""Writes deeploc_v1.ckpt, a very narrow DeepLoc network in TensorFlow's old format; needs TensorFlow (2.15 was used).

The test makes the same values from the variables' names. Run: python make_deeploc_v1.py deeploc_v1.ckpt
"""

import sys
import zlib

import numpy as np


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes as DeepLoc's own training saves them, Adam's slots of one layer included (models.md §2.1)."""
    widths = {f"conv_{i}": n for i, n in enumerate((1, 1, 2, 2, 4, 4, 4, 4), 1)}
    found: dict[str, tuple[int, ...]] = {}
    n_in = 2
    for layer, n in {**widths, "fc_1": 3, "fc_2": 3, "final_layer": 19}.items():
        flat = 8 * 8 * n_in if layer == "fc_1" else n_in
        found[f"{layer}/weights/Variable"] = (3, 3, n_in, n) if layer in widths else (flat, n)
        found[f"{layer}/biases/Variable"] = (n,)
        for part in ("beta", "gamma"):
            found[f"{layer}/batch_norm/{layer}_batch_norm/{part}"] = (n,)
        for part in ("mean", "variance"):
            found[
                f"{layer}_batch_norm/{layer}/batch_norm/{layer}_batch_norm/moments/moments_1/{part}/"
                "ExponentialMovingAverage"
            ] = (n,)
        n_in = n
    return found | {"conv_1/weights/Variable/Adam": (3, 3, 2, 1), "beta1_power": ()}


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that follow from a variable's name; variances are positive."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return (np.abs(drawn) + 0.5 if "variance" in name else drawn).astype(np.float32)


if __name__ == "__main__":
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    variables = [tf.get_variable(name, initializer=values(name, shape)) for name, shape in shapes().items()]
    variables.append(tf.get_variable("Variable", initializer=np.int64(5000)))
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(variables, write_version=tf.train.SaverDef.V1)
        saver.save(session, sys.argv[1], write_meta_graph=False, write_state=False)
