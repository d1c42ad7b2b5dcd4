;; RUN: rewrite %s -o %t
(module
  (memory 1)
  (memory i64 100000))
