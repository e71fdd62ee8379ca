using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using static FramePin.Tests.Conformance.SelfTests.Bench;

namespace FramePin.Tests.Conformance.SelfTests;

/// <summary>
/// mremap_test and mremap_dontunmap: where memory goes, what it holds there, and what is left behind.
/// </summary>
internal static class MremapCases
{
    private const MremapFlags May = MremapFlags.MayMove;
    private const MremapFlags To = MremapFlags.MayMove | MremapFlags.Fixed;
    private const MremapFlags Keep = MremapFlags.MayMove | MremapFlags.DontUnmap;
    private const int Pmd = 512;

    public static IEnumerable<(string Name, Action<Bench> Run)> All =>
        Cases.Select(entry => ("mremap " + entry.Key, entry.Value)).Concat(Alignments.Select(entry =>
            ($"mremap from page {entry.From} to page {entry.To}, {entry.Pages} pages",
                (Action<Bench>)(b => Aligned(b, entry.From, entry.To, entry.Pages)))));

    /// <summary>
    /// Source, destination (pages within 2 MiB) and length: moves by entries, by whole tables, and mixed.
    /// </summary>
    private static readonly (int From, int To, int Pages)[] Alignments =
    [
        (0, 0, 1), (0, 1, 2), (1, 0, 2), (1, 1, 510), (0, 0, 512), (0, 1, 512), (1, 0, 512), (1, 1, 512),
        (0, 0, 1024), (0, 256, 1024), (256, 0, 1024), (256, 256, 1024), (511, 511, 2), (511, 0, 2), (0, 511, 2),
    ];

    private static readonly Dictionary<string, Action<Bench>> Cases = new()
    {
        ["expand_merge"] = b =>
        {
            b.Anon(At, 3);
            b.Is(Done, b.Munmap(P(1), 1));
            b.Is(Text(At), b.Mremap(At, 1, 2));
            b.IsAreas(At, P(3), "0-3:rw-p");
        },
        ["expand_merge_offset"] = b =>
        {
            b.Anon(At, 3);
            b.Is(Done, b.Munmap(P(2), 1));
            b.Is(Text(P(1)), b.Mremap(P(1), 1, 2));
            b.IsAreas(At, P(3), "0-3:rw-p");
        },
        ["move_within_range"] = b =>
        {
            b.Anon(At, 20);
            b.StoreEach(At, 20, 1);
            b.StoreEach(P(2), 2, 5);
            b.Is(Text(P(10)), b.Mremap(P(2), 2, 2, To, P(10)));
            b.LoadsEach(P(10), 2, 5);
            b.IsAreas(At, P(20), "0-2:rw-p", "4-10:rw-p", "10-12:rw-p", "12-20:rw-p");
        },
        ["move_1mb_from_start"] = b =>
        {
            b.Anon(At, 1024);
            b.Store(P(256), 9);
            b.Is(Text(Other), b.Mremap(P(256), 256, 256, To, Other));
            b.Loads(Other, 9);
            b.IsAreas(At, P(1024), "0-256:rw-p", "512-1024:rw-p");
        },
        ["overlap is refused"] = b =>
        {
            b.Anon(At, 8);
            b.Is("-EINVAL", b.Mremap(At, 4, 4, To, P(2)));
            b.Is("-EINVAL", b.Mremap(P(2), 4, 4, To, At));
            b.Is("-EINVAL", b.Mremap(At, 4, 4, To, At + 1));
            b.Is("-EINVAL", b.Mremap(At, 4, 4, MremapFlags.Fixed, Other));
        },
        ["shrink_multiple_vmas"] = b =>
        {
            b.Anon(At, 10);
            for (var page = 1; page < 10; page += 2) b.Is(Done, b.Munmap(P(page), 1));
            b.Is(Text(At), b.Mremap(At, 10, 1));
            b.IsAreas(At, P(10), "0-1:rw-p");
        },
        ["move_multiple_vmas"] = b => MoveSeveral(b, keepsOld: false),
        ["move_multiple_vmas, dontunmap"] = b => MoveSeveral(b, keepsOld: true),
        ["move_multiple_vmas_split"] = b =>
        {
            b.Anon(At, 10);
            for (var page = 0; page < 10; page++) b.Store(P(page), (byte)(page + 1));
            b.Is(Done, b.Mprotect(P(5), 5, Prot.Read));
            b.Is(Text(Other), b.Mremap(P(2), 6, 6, To, Other));
            for (var page = 0; page < 6; page++) b.Loads(P(page, Other), (byte)(page + 3));
            b.IsAreas(At, P(10), "0-2:rw-p", "8-10:r--p");
            b.IsAreas(Other, P(6, Other), "0-3:rw-p", "3-6:r--p");
        },
        ["grow over several areas is refused"] = b =>
        {
            b.Anon(At, 4);
            b.Is(Done, b.Mprotect(P(2), 2, Prot.Read));
            b.Is("-EFAULT", b.Mremap(At, 4, 8, May));
        },
        ["dontunmap simple"] = b =>
        {
            b.Anon(At, 5);
            b.StoreEach(At, 5, (byte)'a');
            b.Is(Text(Other), b.Mremap(At, 5, 5, Keep, Other));
            b.LoadsEach(Other, 5, (byte)'a');
            b.LoadsEach(At, 5, 0);
        },
        ["dontunmap shmem"] = b =>
        {
            b.Is(Text(At), b.Mmap(At, 5, Rw, MapFlags.Shared | MapFlags.Fixed, file: 0));
            b.StoreEach(At, 5, (byte)'a');
            b.Is(Text(Other), b.Mremap(At, 5, 5, Keep, Other));
            b.LoadsEach(Other, 5, (byte)'a');
            b.LoadsEach(At, 5, (byte)'a');
        },
        ["dontunmap simple_fixed"] = b =>
        {
            b.Anon(At, 5);
            b.Anon(Other, 5);
            b.StoreEach(At, 5, (byte)'a');
            b.StoreEach(Other, 5, (byte)'X');
            b.Is(Text(Other), b.Mremap(At, 5, 5, Keep | To, Other));
            b.LoadsEach(Other, 5, (byte)'a');
            b.LoadsEach(At, 5, 0);
        },
        ["dontunmap partial_mapping"] = b =>
        {
            b.Anon(At, 10);
            b.StoreEach(At, 10, (byte)'a');
            b.Is(Text(Other), b.Mremap(P(5), 5, 5, Keep, Other));
            b.LoadsEach(At, 5, (byte)'a');
            b.LoadsEach(P(5), 5, 0);
            b.LoadsEach(Other, 5, (byte)'a');
        },
        ["dontunmap partial_mapping_overwrite"] = b =>
        {
            b.Anon(At, 5);
            b.Anon(Other, 10);
            b.StoreEach(At, 5, (byte)'a');
            b.StoreEach(Other, 10, (byte)'X');
            b.Is(Text(Other), b.Mremap(At, 5, 5, Keep | To, Other));
            b.LoadsEach(Other, 5, (byte)'a');
            b.LoadsEach(P(5, Other), 5, (byte)'X');
            b.LoadsEach(At, 5, 0);
        },
        ["dontunmap wants equal sizes"] = b =>
        {
            b.Anon(At, 4);
            b.Is("-EINVAL", b.Mremap(At, 4, 2, Keep, Other));
            b.Is("-EINVAL", b.Mremap(At, 2, 4, Keep, Other));
            b.Is("-EINVAL", b.Mremap(At, 4, 4, MremapFlags.DontUnmap, Other));
        },
    };

    private static void MoveSeveral(Bench b, bool keepsOld)
    {
        b.Anon(At, 10);
        for (var page = 0; page < 10; page += 2) b.Store(P(page), (byte)(page + 1));
        for (var page = 1; page < 10; page += 2) b.Is(Done, b.Munmap(P(page), 1));
        b.Is(Text(Other), b.Mremap(At, 10, 10, To | (keepsOld ? MremapFlags.DontUnmap : 0), Other));
        string[] islands = ["0-1:rw-p", "2-3:rw-p", "4-5:rw-p", "6-7:rw-p", "8-9:rw-p"];
        b.IsAreas(Other, P(10, Other), islands);
        b.IsAreas(At, P(10), keepsOld ? islands : []);
        for (var page = 0; page < 10; page += 2) b.Loads(P(page, Other), (byte)(page + 1));
        if (keepsOld) b.Loads(At, 0);
    }

    /// <summary>
    /// A pattern at the ends of each table and of the range arrives where it belongs; a page before the target stays.
    /// </summary>
    private static void Aligned(Bench b, int from, int to, int pages)
    {
        const ulong source = 0x4000_0000;
        const ulong target = 0x5000_0000;
        var (start, end) = (P(from, source), P(to, target));
        b.Anon(start, pages);
        b.Anon(end - Page, 1);
        b.Store(end - Page, 0xee);
        int[] marks = [0, pages / 2, pages - 1, .. Enumerable.Range(1, pages / Pmd).Select(i => (i * Pmd) - 1)];
        var inside = marks.Where(page => page >= 0 && page < pages).Distinct().ToList();
        foreach (var page in inside) b.Store(P(page, start), (byte)(1 + (page % 200)));
        b.Is(Text(end), b.Mremap(start, pages, pages, To, end));
        foreach (var page in inside) b.Loads(P(page, end), (byte)(1 + (page % 200)));
        b.Loads(end - Page, 0xee);
        b.Is("SigSegvMapErr", b.Run(StepKind.Load, start));
    }
}
