"""Models of the plain user-item matrix, fitted now and then from what the store keeps of users. Pure.

`matrix` says what the matrix is; `pure_svd`, `nmf` and `ease` fit one of it each, as a `Model`; `chunks` is
its way over the topic `models`; `placed` is a model in a worker, by local ids, which gives candidates.
`external` keeps the scores of models that are trained elsewhere.
"""
