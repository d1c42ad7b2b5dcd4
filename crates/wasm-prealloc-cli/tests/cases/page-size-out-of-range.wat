;; RUN: rewrite %s -o %t
(module (memory 100 (pagesize 1)))
