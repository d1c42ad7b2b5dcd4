;; RUN: verify %s --json
(module (memory 17 20))
