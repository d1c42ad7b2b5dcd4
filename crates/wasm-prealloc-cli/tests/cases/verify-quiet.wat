;; RUN: verify %s %s --quiet --pages 3
(module (memory 3 3))
