using FramePin.Core.Addressing;
using FramePin.Core.PageTables;
using Xunit;

namespace FramePin.Tests.Unit.PageTables;

/// <summary>The table that <see cref="PageTable.FindNear"/> remembers never changes an answer.</summary>
public sealed class NearTableTests : TableFixture
{
    [Fact]
    public void A_table_that_was_freed_and_used_again_elsewhere_is_not_found_at_its_old_place()
    {
        Put(3 * Page, 0);
        Assert.True(Near(3 * Page).Exists);
        Clear(3 * Page);
        Table.Prune(0, PageGeometry.PudSize);
        Put((7 * PageGeometry.PudSize) + (3 * Page), 0);
        Assert.False(Near(3 * Page).Exists);
    }

    [Fact]
    public void A_huge_leaf_in_place_of_a_table_of_small_ones_is_found()
    {
        Put(3 * Page, 0);
        Assert.Equal(0, Near(3 * Page).Order);
        Clear(3 * Page);
        Table.Prune(0, Huge);
        Put(0, PageGeometry.PmdOrder);
        Assert.Equal(PageGeometry.PmdOrder, Near(3 * Page).Order);
    }

    [Fact]
    public void A_table_in_place_of_a_huge_leaf_is_found()
    {
        Put(0, PageGeometry.PmdOrder);
        Assert.Equal(PageGeometry.PmdOrder, Near(3 * Page).Order);
        Assert.True(Table.Split(Table.Find(0)));
        Assert.Equal(Table.Find(3 * Page), Near(3 * Page));
        Assert.Equal(0, Near(3 * Page).Order);
    }

    [Fact]
    public void A_destroyed_table_is_forgotten()
    {
        Put(3 * Page, 0);
        Assert.True(Near(3 * Page).Exists);
        Table.Destroy();
        Assert.False(Near(3 * Page).Exists);
    }

    /// <summary>Maps, unmaps, splits and prunes at random; after each step a pin looks up a random page.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Every_answer_is_that_of_a_walk_from_the_top(int seed)
    {
        var random = new Random(seed);
        var kinds = new HashSet<int>();
        for (var step = 0; step < 20_000; step++)
        {
            // Two GiB of four tables each, so that regions and table numbers come back often.
            var huge = ((ulong)random.Next(2) * 5 * PageGeometry.PudSize) + ((ulong)random.Next(4) * Huge);
            var address = huge + ((ulong)random.Next(2) * 300 * Page);
            var slot = Table.Find(address);
            var isMapped = slot.Exists && Table[slot] != 0;
            switch (random.Next(4))
            {
                case 0 when !isMapped:
                    Put(address, 0);
                    break;
                case 1 when !isMapped && !Table.Leaves(huge, huge + Huge).MoveNext():
                    Table.Prune(huge, huge + Huge);
                    Put(huge, PageGeometry.PmdOrder);
                    break;
                case 2 when isMapped:
                    Table[slot] = 0;
                    break;
                case 3 when isMapped && slot.Order > 0:
                    Assert.True(Table.Split(slot));
                    foreach (var page in Enumerable.Range(1, 511)) Clear(huge + ((ulong)page * Page));
                    break;
                default:
                    var from = huge & ~(PageGeometry.PudSize - 1);
                    Table.Prune(from, from + PageGeometry.PudSize);
                    break;
            }

            var looked = huge + ((ulong)random.Next(512) * Page);
            var found = Table.FindNear(looked);
            Assert.True(found == Table.Find(looked), $"seed {seed}, step {step}: {looked:x} found at {found}");
            kinds.Add(found.Exists ? found.Order : -1);
        }

        Assert.Equal([-1, 0, PageGeometry.PmdOrder], kinds.Order());
    }

    private LeafSlot Near(ulong address) => Table.FindNear(address);

    private void Clear(ulong address) => Table[Table.Find(address)] = 0;
}
