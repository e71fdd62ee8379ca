using FramePin.Core.Abi;
using static FramePin.Tests.Conformance.SelfTests.Bench;

namespace FramePin.Tests.Conformance.SelfTests;

/// <summary>
/// mseal_test: what may and may not be done to a sealed range. Each case runs sealed and, where that says something,
/// unsealed.
/// </summary>
internal static class MsealCases
{
    private const MremapFlags Moves = MremapFlags.MayMove | MremapFlags.Fixed;
    private const Prot R = Prot.Read;

    public static IEnumerable<(string Name, Action<Bench> Run)> All =>
        Once.Select(entry => ("mseal " + entry.Key, entry.Value))
            .Concat(Twice.SelectMany(entry => new[] { true, false }.Select(seal =>
                ($"mseal {entry.Key}, {(seal ? "sealed" : "not sealed")}",
                    (Action<Bench>)(b => entry.Value(b, seal))))));

    private static readonly Dictionary<string, Action<Bench>> Once = new()
    {
        ["addseal"] = b =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mseal(At, 4));
            Assert(b, b.Flags(At).Contains("sl", StringComparison.Ordinal));
        },
        ["unmapped_start"] = b =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Munmap(At, 2));
            b.Is("-ENOMEM", b.Mprotect(At, 4, Rw));
            b.Is("-ENOMEM", b.Mseal(At, 4));
            b.Is(Done, b.Mprotect(P(2), 2, Rw));
            b.Is(Done, b.Mseal(P(2), 2));
        },
        ["unmapped_middle"] = b =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Munmap(P(1), 1));
            b.Is("-ENOMEM", b.Mprotect(At, 4, Rw));
            b.Is("-ENOMEM", b.Mseal(At, 4));
            b.Is(Done, b.Mprotect(At, 1, R));
            b.Is(Done, b.Mseal(At, 1));
            b.Is(Done, b.Mseal(P(2), 2));
        },
        ["unmapped_end"] = b =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Munmap(P(2), 2));
            b.Is("-ENOMEM", b.Mprotect(At, 4, Rw));
            b.Is("-ENOMEM", b.Mseal(At, 4));
            b.Is(Done, b.Mseal(At, 2));
        },
        ["multiple_vmas"] = b =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mprotect(P(1), 1, Rw));
            b.IsAreas(At, P(4), "0-1:r--p", "1-2:rw-p", "2-4:r--p");
            b.Is(Done, b.Mseal(At, 4));
            b.Is(Denied, b.Mprotect(At, 1, Rw));
            b.Is(Denied, b.Mprotect(P(1), 1, R));
            b.Is(Denied, b.Mprotect(P(3), 1, Rw));
        },
        ["split_start"] = b =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mprotect(At, 1, Rw));
            b.Is(Done, b.Mseal(At, 1));
            b.Is(Done, b.Mseal(P(1), 3));
        },
        ["split_end"] = b =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mprotect(P(3), 1, Rw));
            b.Is(Done, b.Mseal(P(3), 1));
            b.Is(Done, b.Mseal(At, 3));
        },
        ["invalid_input"] = b =>
        {
            b.Anon(At, 8, R);
            b.Is("-EINVAL", b.MsealBytes(At + 1, 2 * Page));
            b.Is("-EINVAL", b.MsealBytes(At, ulong.MaxValue - Page));
            b.Is("-EINVAL", b.MsealBytes(At, ulong.MaxValue));
            b.Is(Done, b.Mprotect(At, 8, Rw));
        },
        ["zero_length"] = b =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mprotect(At, 0, Rw));
            b.Is(Done, b.Mseal(At, 0));
            b.Is(Done, b.Mprotect(At, 4, Rw));
        },
        ["zero_address"] = b =>
        {
            b.Anon(0, 4, R);
            b.Is(Done, b.Mseal(0, 4));
            b.Is(Denied, b.Munmap(0, 4));
        },
        ["twice"] = b =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mseal(At, 4));
            b.Is(Done, b.Mseal(At, 4));
        },
        ["two_vma_with_gap"] = b =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mprotect(At, 1, Rw));
            b.Is(Done, b.Mprotect(P(3), 1, Rw));
            b.Is(Done, b.Munmap(P(1), 2));
            b.Is("-ENOMEM", b.Mprotect(At, 4, R));
            b.Is(Done, b.Mprotect(P(3), 1, R));
            b.Is("-ENOMEM", b.Mseal(At, 4));
            b.Is(Done, b.Mprotect(At, 1, Rw));
        },
        ["merge_and_split"] = b =>
        {
            b.Anon(At, 24, R);
            b.Is(Done, b.Mprotect(At, 1, Prot.None));
            b.Is(Done, b.Mprotect(P(23), 1, Prot.None));
            b.Is(Done, b.Mseal(P(1), 1));
            b.IsAreas(At, P(24), "0-1:---p", "1-2:r--p", "2-23:r--p", "23-24:---p");
            b.Is(Done, b.Mseal(P(2), 2));
            b.IsAreas(At, P(24), "0-1:---p", "1-4:r--p", "4-23:r--p", "23-24:---p");
            b.Is(Done, b.Mseal(P(1), 8));
            b.IsAreas(At, P(24), "0-1:---p", "1-9:r--p", "9-23:r--p", "23-24:---p");
            b.Is(Done, b.Mprotect(P(10), 1, Rw));
            b.Is(Done, b.Mseal(P(9), 3));
            b.IsAreas(At, P(24), "0-1:---p", "1-10:r--p", "10-11:rw-p", "11-12:r--p", "12-23:r--p", "23-24:---p");
        },
    };

    private static readonly Dictionary<string, Action<Bench, bool>> Twice = new()
    {
        ["mprotect"] = (b, seal) => Sealed(b, seal, 4, () => b.Mprotect(At, 4, Rw)),
        ["start_mprotect"] = (b, seal) =>
        {
            Sealed(b, seal, 4, () => b.Mprotect(At, 1, Rw), sealPages: 1);
            b.Is(Done, b.Mprotect(P(1), 3, Rw));
        },
        ["end_mprotect"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            if (seal) b.Is(Done, b.Mseal(P(1), 3));
            b.Is(Done, b.Mprotect(At, 1, Rw));
            b.Is(seal ? Denied : Done, b.Mprotect(P(1), 3, Rw));
        },
        ["mprotect_unalign_len"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            if (seal) b.Is(Done, b.MsealBytes(At, (2 * Page) - 1));
            b.Is(seal ? Denied : Done, b.Mprotect(At, 2, Rw));
            b.Is(Done, b.Mprotect(P(2), 1, Rw));
        },
        ["mprotect_unalign_len_variant_2"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            if (seal) b.Is(Done, b.MsealBytes(At, (2 * Page) + 1));
            b.Is(seal ? Denied : Done, b.Mprotect(At, 3, Rw));
            b.Is(Done, b.Mprotect(P(3), 1, Rw));
        },
        ["mprotect_two_vma"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mprotect(At, 2, Rw));
            if (seal) b.Is(Done, b.Mseal(At, 4));
            b.Is(seal ? Denied : Done, b.Mprotect(At, 2, R | Prot.Exec));
            b.Is(seal ? Denied : Done, b.Mprotect(P(2), 2, R | Prot.Exec));
        },
        ["mprotect_two_vma_with_split"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mprotect(At, 2, Rw));
            if (seal) b.Is(Done, b.Mseal(P(1), 2));
            b.Is(Done, b.Mprotect(At, 1, Rw));
            b.Is(seal ? Denied : Done, b.Mprotect(P(1), 1, Rw));
            b.Is(seal ? Denied : Done, b.Mprotect(P(2), 1, Rw));
            b.Is(Done, b.Mprotect(P(3), 1, Rw));
        },
        ["partial_mprotect"] = (b, seal) =>
        {
            Sealed(b, seal, 4, () => b.Mprotect(At, 2, Rw), sealPages: 1);
            b.IsAreas(At, P(4), seal ? ["0-1:r--p", "1-4:r--p"] : ["0-2:rw-p", "2-4:r--p"]);
        },
        ["partial_mprotect_tail"] = (b, seal) =>
        {
            b.Anon(At, 2, R);
            b.Is(Done, b.Mprotect(At, 1, Prot.Exec));
            if (seal) b.Is(Done, b.Mseal(P(1), 1));
            b.Is(seal ? Denied : Done, b.Mprotect(At, 2, Rw));
            // The areas before the sealed one have been changed.
            b.IsAreas(At, P(2), seal ? ["0-1:rw-p", "1-2:r--p"] : ["0-2:rw-p"]);
        },
        ["mprotect_split"] = (b, seal) =>
        {
            Sealed(b, seal, 4, () => b.Mprotect(At, 2, Rw));
            b.Is(seal ? Denied : Done, b.Mprotect(P(2), 2, Rw));
        },
        ["mprotect_merge"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mprotect(At, 1, Rw));
            if (seal) b.Is(Done, b.Mseal(At, 2));
            b.Is(seal ? Denied : Done, b.Mprotect(At, 2, R));
            b.Is(Done, b.Mprotect(P(2), 2, Rw));
        },
        ["munmap"] = (b, seal) => Sealed(b, seal, 4, () => b.Munmap(At, 4)),
        ["munmap_two_vma"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Mprotect(At, 2, Rw));
            if (seal) b.Is(Done, b.Mseal(At, 4));
            b.Is(seal ? Denied : Done, b.Munmap(At, 2));
            b.Is(seal ? Denied : Done, b.Munmap(P(1), 2));
        },
        ["munmap_vma_with_gap"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Munmap(P(1), 2));
            if (seal)
            {
                b.Is(Done, b.Mseal(At, 1));
                b.Is(Done, b.Mseal(P(3), 1));
            }

            b.Is(seal ? Denied : Done, b.Munmap(At, 4));
        },
        ["munmap_start_freed"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Munmap(At, 1));
            if (seal) b.Is(Done, b.Mseal(P(1), 3));
            b.Is(seal ? Denied : Done, b.Munmap(At, 4));
            b.IsAreas(At, P(4), seal ? ["1-4:r--p"] : []);
        },
        ["munmap_end_freed"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Munmap(P(3), 1));
            if (seal) b.Is(Done, b.Mseal(At, 3));
            b.Is(seal ? Denied : Done, b.Munmap(At, 4));
        },
        ["munmap_middle_freed"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Munmap(P(1), 2));
            if (seal)
            {
                b.Is(Done, b.Mseal(At, 1));
                b.Is(Done, b.Mseal(P(3), 1));
            }

            b.Is(seal ? Denied : Done, b.Munmap(At, 4));
            b.IsAreas(At, P(4), seal ? ["0-1:r--p", "3-4:r--p"] : []);
        },
        ["mremap_shrink"] = (b, seal) => Sealed(b, seal, 4, () => b.Mremap(At, 4, 2), done: Text(At)),
        ["mremap_expand"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            b.Is(Done, b.Munmap(P(2), 2));
            if (seal) b.Is(Done, b.Mseal(At, 2));
            b.Is(seal ? Denied : Text(At), b.Mremap(At, 2, 4));
        },
        ["mremap_move"] = (b, seal) =>
        {
            b.Anon(Other, 4, R);
            Sealed(b, seal, 4, () => b.Mremap(At, 4, 4, Moves, Other), done: Text(Other));
        },
        ["mmap_overwrite_prot"] = (b, seal) => Sealed(b, seal, 4, () => Over(b, 4), done: Text(At)),
        ["mmap_expand"] = (b, seal) =>
        {
            b.Anon(At, 12, R);
            b.Is(Done, b.Munmap(P(8), 4));
            if (seal) b.Is(Done, b.Mseal(At, 8));
            b.Is(seal ? Denied : Text(At), Over(b, 12));
        },
        ["mmap_shrink"] = (b, seal) => Sealed(b, seal, 12, () => Over(b, 8), done: Text(At)),
        ["mremap_shrink_fixed"] = (b, seal) => ToSealed(b, seal, () => b.Mremap(At, 4, 2, Moves, Other)),
        ["mremap_expand_fixed"] = (b, seal) => ToSealed(b, seal, () => b.Mremap(At, 2, 4, Moves, Other)),
        ["mremap_move_fixed"] = (b, seal) => ToSealed(b, seal, () => b.Mremap(At, 4, 4, Moves, Other)),
        ["mremap_move_fixed_zero"] = (b, seal) => Sealed(b, seal, 4, () => b.Mremap(At, 4, 2, Moves, 0), done: "0x0"),
        ["mremap_move_dontunmap"] = (b, seal) =>
        {
            b.Anon(At, 4, R);
            if (seal) b.Is(Done, b.Mseal(At, 4));
            var answer = b.Mremap(At, 4, 4, MremapFlags.MayMove | MremapFlags.DontUnmap);
            if (seal) b.Is(Denied, answer);
            else Assert(b, answer.StartsWith("0x7f", StringComparison.Ordinal));
        },
        ["mremap_move_dontunmap_anyaddr"] = (b, seal) =>
        {
            const ulong hint = 0xdead_0000;
            Sealed(b, seal, 4, () => b.Mremap(At, 4, 4, MremapFlags.MayMove | MremapFlags.DontUnmap, hint),
                done: Text(hint));
        },
        ["discard_ro_anon_on_rw"] = (b, seal) =>
        {
            b.Anon(At, 4);
            b.StoreEach(At, 4, 7);
            if (seal) b.Is(Done, b.Mseal(At, 4));
            b.Is(Done, b.Madvise(At, 4, Advice.DontNeed));
            b.Loads(At, 0);
            b.Is(seal ? Denied : Done, b.Munmap(At, 4));
        },
        ["discard_ro_anon_on_filebacked"] = (b, seal) =>
        {
            b.Is(Text(At), b.Mmap(At, 4, R, MapFlags.Private | MapFlags.Fixed, file: 0));
            if (seal) b.Is(Done, b.Mseal(At, 4));
            b.Is(Done, b.Madvise(At, 4, Advice.DontNeed));
            b.Is(seal ? Denied : Done, b.Munmap(At, 4));
        },
        ["discard_ro_anon_on_shared"] = (b, seal) =>
        {
            b.Is(Text(At), b.Mmap(At, 4, R, MapFlags.Shared | MapFlags.Anonymous | MapFlags.Fixed));
            if (seal) b.Is(Done, b.Mseal(At, 4));
            b.Is(Done, b.Madvise(At, 4, Advice.DontNeed));
            b.Is(seal ? Denied : Done, b.Munmap(At, 4));
        },
        ["discard_ro_anon"] = (b, seal) =>
        {
            b.Anon(At, 4);
            b.StoreEach(At, 4, 7);
            b.Is(Done, b.Mprotect(At, 4, R));
            if (seal) b.Is(Done, b.Mseal(At, 4));
            foreach (var advice in new[] { Advice.DontNeed, Advice.Free, Advice.DontNeedLocked, Advice.DontFork,
                Advice.WipeOnFork })
                b.Is(seal ? Denied : Done, b.Madvise(At, 4, advice));
            if (seal) b.LoadsEach(At, 4, 7);
            b.Is(seal ? Denied : Done, b.Munmap(At, 4));
        },
        ["discard_across_vmas"] = (b, seal) =>
        {
            b.Anon(At, 4);
            b.StoreEach(At, 4, 7);
            b.Is(Done, b.Mprotect(P(2), 2, R));
            if (seal) b.Is(Done, b.Mseal(At, 4));
            b.Is(seal ? Denied : Done, b.Madvise(At, 4, Advice.DontNeed));
            // The contents before the area that refuses are gone.
            b.Loads(At, 0);
            b.Loads(P(2), seal ? (byte)7 : (byte)0);
        },
        ["madvise_nodiscard"] = (b, seal) =>
        {
            Sealed(b, seal, 4, () => b.Madvise(At, 4, Advice.Random), refused: Done);
            b.Is(seal ? Denied : Done, b.Munmap(At, 4));
        },
    };

    private static void Sealed(
        Bench b, bool seal, int pages, Func<string> change, int sealPages = 0, string done = Done,
        string refused = Denied)
    {
        b.Anon(At, pages, R);
        if (seal) b.Is(Done, b.Mseal(At, sealPages == 0 ? pages : sealPages));
        b.Is(seal ? refused : done, change());
    }

    private static void ToSealed(Bench b, bool seal, Func<string> move)
    {
        b.Anon(At, 4, R);
        b.Anon(Other, 4, R);
        if (seal) b.Is(Done, b.Mseal(Other, 4));
        b.Is(seal ? Denied : Text(Other), move());
    }

    private static string Over(Bench b, int pages) =>
        b.Mmap(At, pages, R, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed);

    private static void Assert(Bench b, bool holds) => b.Is("True", $"{holds}");
}
