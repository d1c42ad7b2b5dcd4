;; RUN: rewrite %s -o %t --in-place
(module (memory 1))
