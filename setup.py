"""What pyproject.toml cannot say: `models/`, at the top of a checkout, lies inside the package in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lib_layerdiffusion", "lib_layerdiffusion.*"]), "lib_layerdiffusion.models"],
    package_dir={"lib_layerdiffusion.models": "models"},
)
