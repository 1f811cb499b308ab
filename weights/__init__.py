"""The models that detq brings along; installed as the package ``detq.weights``."""
