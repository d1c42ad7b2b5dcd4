;; RUN: verify %s --pages 1 --pages 7=5
(module (memory 1 1))
