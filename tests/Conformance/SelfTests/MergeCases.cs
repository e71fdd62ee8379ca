using FramePin.Core.Abi;
using static FramePin.Tests.Conformance.SelfTests.Bench;

namespace FramePin.Tests.Conformance.SelfTests;

/// <summary>
/// merge: which neighbours join, by who has been touched (has an anon_vma), who was forked, and where memory was moved.
/// </summary>
internal static class MergeCases
{
    private const Prot R = Prot.Read;
    private const MremapFlags To = MremapFlags.MayMove | MremapFlags.Fixed;

    public static IEnumerable<(string Name, Action<Bench> Run)> All =>
        Cases.Select(entry => ("merge " + entry.Key, entry.Value));

    private static readonly Dictionary<string, Action<Bench>> Cases = new()
    {
        // NORESERVE: else mprotect leaves VM_ACCOUNT behind, which keeps neighbours apart.
        // Each: a range of 10 pages, protections that cut it in parts, touches, and the change that may join them.
        ["mprotect_unfaulted_left"] = b =>
        {
            Map(b, At, 10);
            b.Is(Done, b.Mprotect(At, 5, R));
            b.Store(P(5), 1);
            b.Is(Done, b.Mprotect(At, 5, Rw));
            b.IsAreas(At, P(10), "0-10:rw-p");
        },
        ["mprotect_unfaulted_right"] = b =>
        {
            Map(b, At, 10);
            b.Is(Done, b.Mprotect(P(5), 5, R));
            b.Store(At, 1);
            b.Is(Done, b.Mprotect(P(5), 5, Rw));
            b.IsAreas(At, P(10), "0-10:rw-p");
        },
        ["mprotect_unfaulted_both"] = b =>
        {
            Map(b, At, 9);
            b.Is(Done, b.Mprotect(At, 3, R));
            b.Is(Done, b.Mprotect(P(6), 3, R));
            b.Store(P(3), 1);
            b.Is(Done, b.Mprotect(P(3), 3, R));
            b.IsAreas(At, P(9), "0-9:r--p");
        },
        ["mprotect_faulted_left_unfaulted_right"] = b =>
        {
            Map(b, At, 9);
            b.Is(Done, b.Mprotect(P(6), 3, R));
            b.Store(At, 1);
            b.Is(Done, b.Mprotect(At, 3, R));
            b.Is(Done, b.Mprotect(P(3), 3, R));
            b.IsAreas(At, P(9), "0-9:r--p");
        },
        ["mprotect_unfaulted_left_faulted_right"] = b =>
        {
            Map(b, At, 9);
            b.Is(Done, b.Mprotect(At, 3, R));
            b.Store(P(6), 1);
            b.Is(Done, b.Mprotect(P(6), 3, R));
            b.Is(Done, b.Mprotect(P(3), 3, R));
            b.IsAreas(At, P(9), "0-9:r--p");
        },
        ["two anon_vmas do not merge"] = b =>
        {
            Map(b, At, 3);
            Map(b, P(6), 3);
            b.Store(At, 1);
            b.Store(P(6), 1);
            Map(b, P(3), 3);
            b.IsAreas(At, P(9), "0-6:rw-p", "6-9:rw-p");
        },
        ["a gap filled between untouched neighbours joins all three"] = b =>
        {
            Map(b, At, 3);
            Map(b, P(6), 3);
            Map(b, P(3), 3);
            b.IsAreas(At, P(9), "0-9:rw-p");
        },
        ["forked_target_vma"] = b =>
        {
            Map(b, At, 10);
            b.Store(At, 1);
            b.Process = b.Fork();
            // The child's area shares its anon_vma chain with the parent's: a new neighbour does not join it.
            Map(b, P(10), 5);
            b.IsAreas(At, P(15), "0-10:rw-p", "10-15:rw-p");
        },
        ["forked_source_vma"] = b =>
        {
            Map(b, At, 5);
            b.Store(At, 1);
            b.Process = b.Fork();
            Map(b, P(5), 5);
            b.Store(P(5), 2);
            b.Is(Done, b.Mprotect(P(5), 5, R));
            b.Is(Done, b.Mprotect(P(5), 5, Rw));
            b.IsAreas(At, P(10), "0-5:rw-p", "5-10:rw-p");
        },
        ["mremap_unfaulted_to_faulted"] = b =>
        {
            Map(b, At, 5);
            Map(b, Other, 5);
            b.Store(At, 1);
            b.Is(Text(P(5)), b.Mremap(Other, 5, 5, To, P(5)));
            b.IsAreas(At, P(10), "0-10:rw-p");
        },
        ["mremap_unfaulted_behind_faulted"] = b =>
        {
            Map(b, P(5), 5);
            Map(b, Other, 5);
            b.Store(P(5), 1);
            b.Is(Text(At), b.Mremap(Other, 5, 5, To, At));
            b.IsAreas(At, P(10), "0-10:rw-p");
        },
        ["mremap_unfaulted_between_faulted"] = b =>
        {
            Map(b, At, 15);
            b.StoreEach(At, 15, 1);
            b.Is(Done, b.Munmap(P(5), 5));
            Map(b, Other, 5);
            b.Is(Text(P(5)), b.Mremap(Other, 5, 5, To, P(5)));
            b.IsAreas(At, P(15), "0-15:rw-p");
        },
        ["mremap_faulted_elsewhere_keeps_its_offset"] = b =>
        {
            Map(b, At, 5);
            Map(b, Other, 5);
            b.Store(Other, 1);
            b.Is(Text(P(5)), b.Mremap(Other, 5, 5, To, P(5)));
            b.IsAreas(At, P(10), "0-5:rw-p", "5-10:rw-p");
        },
        ["mremap_correct_placed_faulted"] = b =>
        {
            Map(b, At, 15);
            b.StoreEach(At, 15, 1);
            // Away and back to where it was: offsets fit again, and the anon_vma is the same.
            b.Is(Text(Other), b.Mremap(P(5), 5, 5, To, Other));
            b.IsAreas(At, P(15), "0-5:rw-p", "10-15:rw-p");
            b.Is(Text(P(5)), b.Mremap(Other, 5, 5, To, P(5)));
            b.IsAreas(At, P(15), "0-15:rw-p");
        },
        ["mremap_dontunmap_leaves_a_part_that_joins"] = b =>
        {
            Map(b, At, 10);
            b.StoreEach(At, 10, 1);
            b.Is(Text(Other), b.Mremap(P(5), 5, 5, MremapFlags.MayMove | MremapFlags.DontUnmap, Other));
            b.Is(Done, b.Mprotect(P(5), 5, R));
            b.Is(Done, b.Mprotect(P(5), 5, Rw));
            b.IsAreas(At, P(10), "0-10:rw-p");
        },
        ["shared file parts join by offset"] = b =>
        {
            b.Is(Text(At), b.Mmap(At, 4, Rw, MapFlags.Shared | MapFlags.Fixed, file: 0));
            b.Is(Text(P(4)), b.Mmap(P(4), 4, Rw, MapFlags.Shared | MapFlags.Fixed, file: 0, offset: 4));
            b.IsAreas(At, P(8), "0-8:rw-s");
            b.Is(Text(P(8)), b.Mmap(P(8), 4, Rw, MapFlags.Shared | MapFlags.Fixed, file: 0, offset: 4));
            b.IsAreas(At, P(12), "0-8:rw-s", "8-12:rw-s");
        },
        ["mprotect half and back"] = b =>
        {
            Map(b, At, 10);
            b.StoreEach(At, 10, 1);
            b.Is(Done, b.Mprotect(P(5), 5, R));
            b.IsAreas(At, P(10), "0-5:rw-p", "5-10:r--p");
            b.Is(Done, b.Mprotect(P(5), 5, Rw));
            b.IsAreas(At, P(10), "0-10:rw-p");
        },
        ["advice cuts and joins"] = b =>
        {
            Map(b, At, 9);
            b.Is(Done, b.Madvise(P(3), 3, Advice.DontFork));
            b.IsAreas(At, P(9), "0-3:rw-p", "3-6:rw-p", "6-9:rw-p");
            b.Is(Done, b.Madvise(P(3), 3, Advice.DoFork));
            b.IsAreas(At, P(9), "0-9:rw-p");
        },
    };

    private static void Map(Bench b, ulong at, int pages) => b.Anon(at, pages, Rw, MapFlags.NoReserve);
}
