;; RUN: verify %s
(module (memory 17))
