;; RUN: rewrite %s -o %t --pages 100000
(module
  (memory 1)
  (memory i64 100000))
