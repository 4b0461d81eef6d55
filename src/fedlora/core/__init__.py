# SPDX-License-Identifier: Apache-2.0
"""The ground floor: low-rank algebra, adapters, payloads and the nouns of a round.

Pure functions over frozen values; imports torch, numpy and safetensors only.
"""
