"""Recipes and data set descriptions as YAML; installed as the package ``detq.configs``."""
