(define (problem p07) (:domain painter)
  (:objects hall kitchen bath - room white blue - colour)
  (:init
    (door hall kitchen) (door kitchen hall)
    (door kitchen bath) (door bath kitchen)
    (pot white hall) (pot blue kitchen) (sink kitchen)
    (in hall) (clean)
    (bare hall) (wall kitchen white) (bare bath))
  (:goal (and (wall kitchen blue) (wall bath blue))))
