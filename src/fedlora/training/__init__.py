# SPDX-License-Identifier: Apache-2.0
"""Data, bases and trainers: the sole home of transformers, datasets and peft. Blind to methods."""
