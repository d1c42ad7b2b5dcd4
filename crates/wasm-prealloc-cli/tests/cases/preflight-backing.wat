;; RUN: preflight --pages 33 --backing hugetlb-2m
(module)
