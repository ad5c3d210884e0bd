"""Trains small models with scikit-learn, and writes each into a folder as the tests read it:

NAME.onnx            what skl2onnx makes of it, with its defaults
NAME.json            shape of the inputs, names of the outputs, and the library's own labels of 1,000 inputs
NAME.inputs          the inputs, little-endian binary32
NAME.expected        the library's own probabilities or predictions, little-endian binary64

Inputs are representable in binary32, so that library and ONNX see the same numbers.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

ROWS = 1_000
SEED = 7


def flowers(rows, random):
    """Flowers that lie between the known ones, and labels of the known ones."""
    inputs, labels = load_iris(return_X_y=True)
    low, high = inputs.min(axis=0), inputs.max(axis=0)
    return inputs, labels, random.uniform(low, high, (rows, inputs.shape[1])).astype(np.float32)


def save(folder, name, model, inputs):
    onnx = to_onnx(model, inputs[:1])
    (folder / f"{name}.onnx").write_bytes(onnx.SerializeToString())
    classifies = hasattr(model, "predict_proba")
    exact = inputs.astype(np.float64)
    expected = model.predict_proba(exact) if classifies else model.predict(exact).reshape(len(inputs), -1)
    labels = model.predict(exact).tolist() if classifies else None
    about = {"inputs": list(inputs.shape), "expected": list(expected.shape), "labels": labels}
    if classifies:
        about["classes"] = model.classes_.tolist()
    (folder / f"{name}.json").write_text(json.dumps(about))
    (folder / f"{name}.inputs").write_bytes(inputs.astype("<f4").tobytes())
    (folder / f"{name}.expected").write_bytes(expected.astype("<f8").tobytes())


def main(folder):
    random = np.random.default_rng(SEED)
    iris, species, unseen = flowers(ROWS, random)
    names = np.array(["setosa", "versicolor", "virginica"])[species]
    digits, numbers = load_digits(return_X_y=True)
    written = digits[:ROWS].astype(np.float32)
    two = species < 2

    linear = LogisticRegression(max_iter=1_000)
    save(folder, "linear", linear.fit(iris, species), unseen)
    save(folder, "linear_of_two", linear.fit(iris[two], species[two]), unseen)
    save(folder, "linear_with_names", linear.fit(iris, names), unseen)
    save(folder, "regression", LinearRegression().fit(iris[:, :3], iris[:, 3]), unseen[:, :3])
    forest = RandomForestClassifier(50, random_state=SEED)
    save(folder, "forest", forest.fit(digits, numbers), written)
    save(folder, "forest_of_two", forest.fit(iris[two], species[two]), unseen)
    save(folder, "forest_with_names", forest.fit(iris, names), unseen)
    boosted = GradientBoostingClassifier(n_estimators=20, random_state=SEED)
    save(folder, "boosted", boosted.fit(iris, species), unseen)
    boosted_of_two = boosted.fit(iris, (species == 1).astype(int))
    save(folder, "boosted_of_two", boosted_of_two, unseen)
    forest = RandomForestRegressor(20, random_state=SEED)
    save(folder, "regression_forest", forest.fit(iris[:, :3], iris[:, 3]), unseen[:, :3])
    network = MLPClassifier((64,), max_iter=60, random_state=SEED)
    save(folder, "network", network.fit(digits / 16, numbers), written / 16)
    network = make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=300, random_state=SEED))
    save(folder, "scaled_network", network.fit(iris, names), unseen)
    # What tract cannot run.
    save(folder, "support_vectors", SVC(probability=True, random_state=SEED).fit(iris, species), unseen)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
