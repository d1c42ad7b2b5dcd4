;; RUN: rewrite %s -o %t
(module
  (memory i64 100000)
  (memory 1))
