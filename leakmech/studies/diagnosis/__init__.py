"""Diagnosis: which layers, heads and neurons carry leaked affect."""
