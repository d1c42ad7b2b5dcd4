;; RUN: rewrite %s -o %t
(module (memory 1 (pagesize 1)))
