;; RUN: rewrite %s -o %t
(module (memory 1 2 shared))
