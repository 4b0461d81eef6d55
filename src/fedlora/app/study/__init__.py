# SPDX-License-Identifier: Apache-2.0
"""Studies: methods on the same partition draws, each at a learning rate chosen with equal effort, and what may be said.

`settings` is the file; `plan` a study and its settings; `cells` the runs that it consists of; `choice` the learning
rates; `runner` and `worker` run them; `results` and `compared` read them.
"""
