"""Packaging of isnas: `pip install .` (users) or `pip install -e .[test]` (developers)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
# what `isnas export` writes and checks files with; torch's exporter to ONNX needs onnxscript
EXPORT = ["onnx>=1.18", "onnxruntime>=1.20", "onnxscript>=0.7", "safetensors>=0.5"]
version = re.search(r'__version__ = "(.+)"', (here / "isnas" / "__init__.py").read_text())[1]

# reads numpydoc docstrings and Markdown pages; furo is its theme
DOCS = ["sphinx>=8.1", "myst-parser>=4.0", "furo>=2024.8"]

setup(
    name="isnas",
    version=version,
    description="Sparse-coding, one-stage neural architecture search on PyTorch",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["isnas*", "solvers", "figures"]),
    # Lower bounds are the oldest versions that the fast tests were run with.
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "numpy>=2.1",
        "scipy>=1.15",
        "scikit-learn>=1.6",
        "matplotlib>=3.10",
        "joblib>=1.4",  # trials side by side and on clusters; scikit-learn needs it, too
        "tqdm>=4.67",  # progress bars with time left; well kept, no dependencies
    ],
    extras_require={
        "test": [
            "pytest>=8.3",
            "pytest-xdist>=3.6",  # the suite on all cores
            "hypothesis>=6.120",
            "ruff==0.17.*",  # another version may find or format something else
            "tensorboard>=2.18",
            "distributed>=2025.1",  # a comparison on a local cluster
            *DOCS,
            *EXPORT,
        ],
        "docs": DOCS,
        "export": EXPORT,
        # clusters that `isnas compare` can run on, through joblib
        "dask": ["distributed>=2025.1"],
        "ray": ["ray>=2.40"],
        "benchmark": ["cvxpy>=1.6"],
        "tensorboard": ["tensorboard>=2.18"],
        "natsbench": ["nats_bench>=1.8"],  # to read the official NAS-Bench-201 archive
    },
    entry_points={"console_scripts": ["isnas = isnas.__main__:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
