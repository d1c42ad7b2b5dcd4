;; RUN: rewrite %s -o %t
(module (memory i64 1))
