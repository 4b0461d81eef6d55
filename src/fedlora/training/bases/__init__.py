# SPDX-License-Identifier: Apache-2.0
"""Pretrained models: loading them, the maps that are adapted, number types, and adapters as PEFT directories."""
