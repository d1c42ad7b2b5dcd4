;; RUN: rewrite %s -o %t
(component (core module (memory 1)))
