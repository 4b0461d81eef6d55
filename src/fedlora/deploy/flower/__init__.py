# SPDX-License-Identifier: Apache-2.0
"""Flower as the carrier between server and sites. The only folder that imports flwr."""
