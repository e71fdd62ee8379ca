using FramePin.Core.Backing;

namespace FramePin.Core.Vmas;

/// <summary>
/// The areas in which anonymous pages of one origin may be mapped (struct anon_vma). Each anonymous frame names the one
/// that it was made for, and its page index there; the areas that may map it stand in <see cref="Mappings"/>.
/// </summary>
/// <remarks>
/// An area gets one before its first anonymous page, as its own. Areas that share their own one may merge. A child of
/// fork may map pages of its parent, so its areas are in the maps of the parent's anon_vmas as well as in that of their
/// own (<see cref="AnonChain"/>). Guarded by the turn.
/// </remarks>
internal sealed class AnonVma(AnonVmas all, int id)
{
    /// <summary>Number within the machine, counted up from 1; what frames record.</summary>
    public int Id { get; } = id;

    /// <summary>Areas that may map a page of it, in every address space.</summary>
    public ReverseMap Mappings { get; } = new();

    /// <summary>Areas whose own anon_vma it is (num_active_vmas).</summary>
    public int Owners { get; private set; }

    /// <summary>An area that may map its pages becomes part of an address space.</summary>
    public void Add(Vma vma)
    {
        if (Mappings.Count == 0) all.Remember(this);
        Mappings.Add(vma);
        if (ReferenceEquals(vma.AnonVma, this)) Owners++;
    }

    /// <summary>
    /// The reverse of <see cref="Add"/>. No entry maps a page of an anon_vma without areas, and it is forgotten.
    /// </summary>
    public void Remove(Vma vma)
    {
        Mappings.Remove(vma);
        if (ReferenceEquals(vma.AnonVma, this)) Owners--;
        if (Mappings.Count == 0) all.Forget(this);
    }
}

/// <summary>
/// The anon_vmas whose pages an area may map, the youngest first (anon_vma_chain of vm_area_struct). Immutable, so that
/// the areas of a split and of a fork share it.
/// </summary>
internal sealed record AnonChain(AnonVma AnonVma, AnonChain? Older)
{
    /// <summary>The oldest: every area that may map a page of the family is in its map (anon_vma->root).</summary>
    public AnonVma Root
    {
        get
        {
            var link = this;
            while (link.Older is { } older) link = older;
            return link.AnonVma;
        }
    }

    /// <summary>Whether an area with this chain may map pages of <paramref name="anon"/>.</summary>
    public bool Contains(AnonVma anon)
    {
        for (var link = this; link is not null; link = link.Older)
            if (ReferenceEquals(link.AnonVma, anon)) return true;
        return false;
    }
}

/// <summary>The anon_vmas of a machine, by number. Guarded by the turn.</summary>
internal sealed class AnonVmas
{
    private readonly Dictionary<int, AnonVma> _live = [];
    private int _last;

    /// <summary>Those that areas refer to, in no order.</summary>
    public IReadOnlyCollection<AnonVma> Live => _live.Values;

    /// <summary>The anon_vma with a number; null when no area may map a page of it any more.</summary>
    public AnonVma? Find(int id) => _live.GetValueOrDefault(id);

    /// <summary>
    /// Gives an area its anon_vma before its first anonymous page: that of a neighbour, where the two could merge
    /// later, or a new one (__anon_vma_prepare). Nothing to do for an area that has one.
    /// </summary>
    public void Prepare(AddressSpace space, Vma vma)
    {
        if (vma.AnonVma is not null) return;
        var own = VmaMerge.Reusable(space, vma) ?? Create();
        vma.TakeAnon(own, new AnonChain(own, null));
    }

    /// <summary>
    /// The area of a child of fork may map the pages of its parent's, and has an anon_vma of its own for new ones
    /// (anon_vma_fork). One of the family that is no area's own any more serves again, so that the chain does not grow
    /// with every generation (anon_vma_clone).
    /// </summary>
    public void Inherit(Vma child, Vma parent)
    {
        if (parent.AnonChain is not { } family) return;
        for (var link = family; link is not null; link = link.Older)
        {
            if (link.AnonVma.Owners > 0) continue;
            child.TakeAnon(link.AnonVma, family);
            return;
        }

        var own = Create();
        child.TakeAnon(own, new AnonChain(own, family));
    }

    /// <summary>Called by an anon_vma that gets its first area.</summary>
    public void Remember(AnonVma anon) => _live.Add(anon.Id, anon);

    /// <summary>Called by an anon_vma that has no area any more.</summary>
    public void Forget(AnonVma anon) => _live.Remove(anon.Id);

    private AnonVma Create() => new(this, ++_last);
}
