# SPDX-License-Identifier: Apache-2.0
"""The law book: what holds for every method, checked on small worlds that Hypothesis draws.

A new method inherits all laws on the day its file appears; `fedlora check` runs them.
"""
