;; RUN: rewrite %s -o %t --growth fast
(module (memory 1))
